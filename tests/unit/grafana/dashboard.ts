// What the dashboard must be, of Grafana's own types. `dashboard.schema.json` is made of it:
//
//   npm install @grafana/schema@13.2.3 ts-json-schema-generator@2.4.0
//   npx ts-json-schema-generator --path dashboard.ts --type EtcdStewardDashboard --no-type-check
//
// and then without descriptions and defaults.
import type * as raw from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as series from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type * as table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';

// The Prometheus data source has its types apart.
interface Query {
  refId: string;
  datasource: { type: 'prometheus'; uid: string };
  expr: string;
  legendFormat: string;
  format?: 'table' | 'time_series' | 'heatmap';
  instant?: boolean;
  range?: boolean;
}
type Fields<T> = {
  defaults: Omit<raw.FieldConfig, 'custom'> & { custom?: Partial<T> };
  overrides: raw.FieldConfigSource['overrides'];
};
type PanelOf<K extends string, O, T> = Omit<raw.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: K;
  options: Partial<O>;
  fieldConfig: Fields<T>;
  targets: Query[];
};
export interface EtcdStewardDashboard extends Omit<raw.Dashboard, 'panels'> {
  panels: (
    | raw.RowPanel
    | PanelOf<'timeseries', series.Options, series.FieldConfig>
    | PanelOf<'table', table.Options, table.FieldConfig>
  )[];
}
